/*
 * cuda.h
 *		In place of CUDA's: names of the driver's functions, which are never called.
 */
#ifndef SIMT_CUDA_H
#define SIMT_CUDA_H

extern int	cuMemCreate(void), cuMemRelease(void), cuMemAddressReserve(void), cuMemAddressFree(void), cuMemMap(void), cuMemUnmap(void),
			cuMemSetAccess(void), cuMemGetAllocationGranularity(void), cuMemExportToShareableHandle(void),
			cuMemImportFromShareableHandle(void), cuGetErrorString(void);

#endif							/* SIMT_CUDA_H */
